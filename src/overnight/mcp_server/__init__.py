"""A face for agents: the verbs as tools of the Model Context Protocol, on its official SDK. Calls ``app``, holds no rule of its own."""
