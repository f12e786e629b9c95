"""The relay and the links to it: the only room that speaks NATS, and that signs and seals what goes over it.

Workers and clients dial out; a hub beside the relay answers. Carries bytes and never looks into them. Must not know of jobs, nor of the store.
"""
