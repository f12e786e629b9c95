"""A model server on loopback that follows a script: what an agent would get from a model, without one.

It speaks OpenAI chat completions and responses, Anthropic messages and Gemini generateContent, streaming or not. A scenario is a list of
steps; each is mapped onto whatever tools the agent's own request offers. Which step comes next is told by the conversation itself (how many
tool results it holds), so any number of agents may share a server.
"""

from model_server.server import ModelServer, Seen
from model_server.steps import Ask, Edit, Empty, Fail, Flood, Garbage, Hang, Read, Say, Shell, Step, Use

__all__ = ["Ask", "Edit", "Empty", "Fail", "Flood", "Garbage", "Hang", "ModelServer", "Read", "Say", "Seen", "Shell", "Step", "Use"]
