"""Run PEFT's own test-suite with Excitor as one more method.

    python scripts/peft_suite [--cache DIR] [pytest arguments]

Downloads the source distribution of the installed peft, which holds its tests, and the packages that they import, into
a cache folder; makes tiny random models there in place of the hub's; runs the tests with the plugin beside this file.
Nothing of PEFT is copied into this repository. Writes ``results/peft-suite/results.json``.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import hub
from matrix import MATRICES, STAND_INS


REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "results" / "peft-suite" / "results.json"
IMPORTED_BY_TESTS = ("diffusers==0.42.1", "parameterized==0.9.0")


def fetch(cache: Path) -> None:
    """Bring PEFT's tests and what they import into the cache, once for each version of peft."""
    cache.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    wanted = f"peft=={version('peft')}"
    unpacked = cache / "tests" / "__init__.py"  # the archive leaves it out; the tests import one another
    if not unpacked.exists():
        subprocess.run([*pip, "download", "--no-binary", ":all:", "--no-deps", "-d", cache, wanted], check=True)
        (archive,) = cache.glob("peft-*.tar.gz")
        with tarfile.open(archive) as tar:
            for member in tar:
                if "/tests/" in member.name:
                    member.name = member.name.split("/", 1)[1]
                    tar.extract(member, cache, filter="data")
        unpacked.touch()
    if not (cache / "site").exists():
        subprocess.run([*pip, "install", "--no-deps", "--target", cache / "site", *IMPORTED_BY_TESTS], check=True)


def run(cache: Path, modules: list[str], arguments: list[str]) -> int:
    """Run pytest from the folder of the models, so that a hub name is the path of a folder."""
    paths = [REPOSITORY / "src", Path(__file__).parent, cache / "site"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PEFT_DEBUG_WITH_TORCH_COMPILE": "1",  # else PEFT leaves these tests out
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(cache / "hf"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    files = [str(cache / "tests" / f"{module}.py") for module in modules]
    options = ["-p", "plugin", "-q", "-rfE", "--tb=short", "-o", "addopts=", f"--rootdir={cache}"]
    options += [f"--junit-xml={cache / 'junit.xml'}", "-o", "junit_family=xunit1", "-W", "ignore"]
    command = [sys.executable, "-m", "pytest", *options, *files, *arguments]
    return subprocess.run(command, cwd=cache / "models", env=environment, check=False).returncode


def count(report: Path) -> dict[str, Counter[str]]:
    """Outcomes by module; "refused" are tests of merging that met the method's refusal."""
    outcomes: dict[str, Counter[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        module = case.attrib["classname"].split(".")[1]
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
        elif skipped is not None:
            outcome = "refused" if skipped.get("type") == "pytest.xfail" else "skipped"
        else:
            outcome = "passed"
        outcomes.setdefault(module, Counter())[outcome] += 1
    return outcomes


def main() -> int:
    """Fetch, make, run, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "excitor" / f"peft-{version('peft')}"
    parser.add_argument("--cache", type=Path, default=default, help=f"where downloads and models go; {default}")
    arguments, for_pytest = parser.parse_known_args()
    cache = arguments.cache.absolute()
    fetch(cache)
    hub.make(cache / "models", print)
    code = run(cache, sorted({*MATRICES, *STAND_INS}), for_pytest)
    outcomes = count(cache / "junit.xml")
    columns = ("passed", "refused", "skipped", "failed")
    print(f"{'module':36}" + "".join(f"{column:>9}" for column in columns))
    for module, counts in [*sorted(outcomes.items()), ("all", sum(outcomes.values(), Counter()))]:
        print(f"{module:36}" + "".join(f"{counts[column]:9}" for column in columns))
    if not for_pytest:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        versions = {name: version(name) for name in ("peft", "transformers", "torch")}
        RESULTS.write_text(json.dumps({"versions": versions, "outcomes": outcomes}, indent=2) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
