"""How long a user waits before anything happens: ``excitor --help``, and what ``import excitor`` adds to peft.

    python benchmarks/startup.py

Fresh processes, alternating, medians. Prints a JSON object.
"""

import json
import statistics
import subprocess
import sys
import time


RUNS = 7
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "excitor --help": [sys.executable, "-c", "from excitor_cli import main; main()", "--help"],
    "import peft": [sys.executable, "-c", "import peft"],
    "import excitor": [sys.executable, "-c", "import excitor"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    medians = {name: round(statistics.median(values), 3) for name, values in times.items()}
    print(
        json.dumps(
            {
                "seconds": medians,
                "import excitor / import peft": round(medians["import excitor"] / medians["import peft"], 3),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
