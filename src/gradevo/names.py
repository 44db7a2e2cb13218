"""Names of the files in a run folder: nothing else says them."""

import re

CHECKPOINT = "checkpoint.safetensors"  # of one process
GENERATION = "generation-{:06d}"  # a folder: the checkpoint of several processes
GENERATIONS = re.compile(r"generation-(\d{6,})")
HEAD, SHARD = "head.safetensors", "members-{:05d}.safetensors"  # in such a folder
LOG = "log.jsonl"
RECORD = "run.json"
RESULT, HISTORY = "result.safetensors", "history.json"
LOGGERS = "loggers.json"
LOCK, OWNER = ".lock", ".owner.json"
OWN = (CHECKPOINT, HISTORY, LOG, LOGGERS, RESULT, RECORD, LOCK, OWNER)
