"""Repositories of several kinds, and what `init` sees in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from overnight import config
from overnight.app.detect import Findings, look
from overnight.gpus import Gpu

GPT = {
    "program.md": """# research

1. **Agree on a run tag**. The branch `autoresearch/<tag>` must not already exist.
2. **Read**: `prepare.py` holds the tokenizer and the evaluation. Do not modify.
   - `train.py` — the file you modify.
3. **Verify data exists**: Check that `~/.cache/gptdata/` contains shards and a tokenizer. If not, run `uv run prepare.py`.

Every run has a **fixed time budget of 5 minutes** of training. You launch it as `uv run train.py`.

**The goal is simple: get the lowest val_bpb.** Because time is fixed, everything else is fair game.

```
---
val_bpb:          0.997900
training_seconds: 300.1
peak_vram_mb:     45060.2
```

Read it with `grep "^val_bpb:\\|^peak_vram_mb:" run.log`.

**Timeout**: if a run exceeds 10 minutes, kill it and treat it as a failure.
""",
    "prepare.py": """TIME_BUDGET = 300
MAX_LEN = 2048

def evaluate(model):
    return 1.0
""",
    "train.py": """from prepare import MAX_LEN, evaluate

val_bpb = evaluate(None)
print("---")
print(f"val_bpb:          {val_bpb:.6f}")
print(f"peak_vram_mb:     {0.0:.1f}")
""",
    "pyproject.toml": """[project]
name = "gpt"
version = "0"
""",
    "uv.lock": "version = 1\n",
    "README.md": "# gpt\n",
}
VESSEL = {
    "program.md": """# autoresearch

- `prepare.py` — fixed utilities. Do not modify.
- `train.py` — the file you modify. Everything lives here.
4. **Verify data exists**: Check that `ships-aerial-images/data.yaml` exists, or that `YOLO_DATA` points to one. If not, tell the human.
5. Create `results.tsv` with just the header row.

The script uses a **fixed 5-minute time budget** through the `time` argument.

- Modify `prepare.py`. It is read-only.

**The goal is simple: get the highest `metrics/mAP50-95(B)`.** Higher is better. Reduce batch if memory blows up.

```
---
fitness_key: metrics/mAP50-95(B)
fitness: 0.612345
peak_vram_mb: 8240.5
precision: 0.801234
map50_95: 0.612345
```

Extract the key metric with `grep "^fitness:\\|^peak_vram_mb:" run.log`.
""",
    "prepare.py": """import os

DATA = os.environ.get("YOLO_DATA", "ships-aerial-images/data.yaml")


def show(result):
    print("---")
    for key, value in result.items():
        print(f"{key}: {value}")
""",
    "train.py": """import prepare

prepare.show({})
""",
    "pyproject.toml": """[project]
name = "vessel"
version = "0"
[tool.uv]
package = false
""",
}
SKLEARN = {
    "fit_forest.py": """from lib.report import show

TREES = 50

if __name__ == '__main__':
    model = object()
    show(0.5, 'data/wine.csv')
""",
    "lib/report.py": """def show(value, path):
    print('@accuracy=%.4f @seconds=%.1f' % (value, 1.0))
    open('out.csv', 'w')
""",
    "tests/test_fit.py": """if __name__ == '__main__':
    print('@loss=1')
""",
    "setup.py": "x = 1\n",
}


def made(root: Path, files: Mapping[str, str]) -> list[str]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return sorted(files)


def looked(root: Path, files: Mapping[str, str], on_path: tuple[str, ...] = ("python",), gpus: tuple[Gpu, ...] = ()) -> Findings:
    tracked = made(root, files)
    return look(root, tracked, files.get, lambda name: f"/bin/{name}" if name in on_path else None, gpus)


def loaded(root: Path) -> dict[str, object]:
    found = config.load(root, {}, {})
    return {name: getattr(found.settings, name) for name, origin in found.origin.items() if origin != "default"}
