"""`python -m bench`: measures, and keeps the figures in build/bench."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "bench"))

from first_figures import main  # noqa: E402

if __name__ == "__main__":
    target = ROOT / "build" / "bench"
    target.mkdir(parents=True, exist_ok=True)
    main(["--json", str(target / "first_figures.json"), *sys.argv[1:]])
