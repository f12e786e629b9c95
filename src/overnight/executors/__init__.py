"""Where jobs run: each row is a short name and the dotted path of a class that fulfils ``protocols.Executor``."""

EXECUTORS = {
    "local": "overnight.executors.local:LocalExecutor",
    "ray": "overnight.executors.ray:RayExecutor",
    "slurm": "overnight.executors.slurm:SlurmExecutor",
}
