"""The words of the hub's queue: what is submitted, offered, granted, reported, and which job fits which worker. Pure."""
