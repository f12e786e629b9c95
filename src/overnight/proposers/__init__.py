"""Who has ideas: each proposer is a row here, loaded when it is asked for. Any dotted path ``package.module:Class`` works too."""

PROPOSERS: dict[str, str] = {
    "optuna": "overnight.proposers.optuna_search:OptunaProposer",
    "command": "overnight.proposers.command:CommandProposer",
}
