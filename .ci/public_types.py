"""How much of the public interface a type checker knows, by `pyright --verifytypes`; fails where that falls below the floor."""

import json
import os
import subprocess
import sys
from pathlib import Path

FLOOR = 0.99
SHOWN = 20


def main() -> None:
    """Print the score, and the first names whose types are not known or left to inference."""
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(scripts.parent)}
    command = [str(scripts / "pyright"), "--verifytypes", "gramian", "--ignoreexternal", "--outputjson"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    found = json.loads(done.stdout)["typeCompleteness"]
    score = found["completenessScore"]
    gaps = [symbol for symbol in found["symbols"] if symbol["isExported"] and symbol["diagnostics"]]
    for symbol in gaps[:SHOWN]:
        print(f"{symbol['name']}: {' '.join(symbol['diagnostics'][0]['message'].split())}")
    counts = found["exportedSymbolCounts"]
    print(f"{100 * score:.1f} % of {sum(counts.values())} public names have known types; {len(gaps)} names to annotate")
    sys.exit(score < FLOOR)


if __name__ == "__main__":
    main()
