"""The verbs: what a person, a script or a screen can ask for. Wires rooms together; every face calls only this package."""
