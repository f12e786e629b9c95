"""Who has ideas: each proposer is a row here, loaded when it is asked for; any dotted path ``package.module:Class`` works too.

The coding agents are rows of ``agents``.
"""

PROPOSERS: dict[str, str] = {
    "optuna": "overnight.proposers.optuna_search:OptunaProposer",
    "command": "overnight.proposers.command:CommandProposer",
    "llm": "overnight.proposers.llm:LlmProposer",
}
