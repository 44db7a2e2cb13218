"""The worker's run on Ray: python benchmarks/scale/onray.py OUT NETWORK MEMBERS ... FOLDER"""

import json
import sys
from pathlib import Path

import ray
import torch.nn.functional as F
from worker import digest, setting, task

import gradevo as ge
import gradevo.ray


def main() -> None:
    out, network, members, generations, steps, engine, folder = sys.argv[1:]
    build, train, valid = task(network)
    here = {"env_vars": {"PYTHONPATH": ":".join(p for p in sys.path if p)}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=here)
    result = gradevo.ray.fit(
        setting(members, generations, steps), build, F.cross_entropy, train, valid=valid,
        workers=2, engine=engine, checkpoint=ge.Checkpoint(folder, seconds=0.0),
    )  # fmt: skip
    assert isinstance(result, ge.Result)
    Path(out).write_text(json.dumps({"digest": digest(result)}))
    ray.shutdown()


if __name__ == "__main__":
    main()
