"""Pipelines as words: nodes of a YAML file, their tasks, what is due when, what counts for the cache, and how it all is drawn.

Pure: reads no file and no clock, starts nothing. Must not know YAML's syntax (``overnight.yamls`` gives a tree whose values know their
lines), nor where tasks run.
"""
