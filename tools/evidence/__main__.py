"""Train, measure, judge, and write the page of the evidence.

    python tools/evidence                      all of it, about an hour on two cores
    python tools/evidence --networks shapes_vgg --seeds 0 --small -o build/small --docs build/small
    python tools/evidence --page               write the page again from the results that are there

Results are kept by network and seed in OUT, so that a run that was stopped continues.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tools")]

from evidence import plan as plans  # noqa: E402
from evidence.measure import known, run  # noqa: E402
from evidence.page import write_pages  # noqa: E402
from evidence.plan import Plan  # noqa: E402
from evidence.results import Results  # noqa: E402


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=plans.NETWORKS, default=plans.NETWORKS)
    parser.add_argument("--methods", nargs="+", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=plans.SEEDS)
    parser.add_argument("--small", action="store_true", help="few pictures: to test this tool")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "build" / "evidence")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the pages go")
    parser.add_argument(
        "--recommended",
        type=Path,
        default=ROOT / "graphprop" / "recommended.json",
        help="what graphprop methods --recommend prints",
    )
    parser.add_argument("--no-figures", action="store_true")
    return parser.parse_args()


def main() -> None:
    given = parse()
    methods = tuple(given.methods) if given.methods else Plan().methods
    plan = Plan(
        networks=tuple(given.networks),
        seeds=tuple(given.seeds),
        methods=methods,
        variants=tuple(v for v in plans.VARIANTS if v.method in methods),
        sizes=plans.SMALL if given.small else plans.Sizes(),
    )
    start = time.perf_counter()
    if not given.page:
        jobs = [(network, seed, plan, given.output) for network, seed in plan.jobs]
        with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
            for done in as_completed([pool.submit(run, job) for job in jobs]):
                network, seed, seconds = done.result()
                print(f"{network}, seed {seed}: {seconds:.0f} s of CPU time", flush=True)
        print(f"measured in {(time.perf_counter() - start) / 60:.0f} minutes")
    results = Results()
    for network in plan.networks:
        for seed in plan.seeds:
            content = known(given.output, network, seed, plan)
            if content is not None:
                results.add(content)
    if not results.networks:
        sys.exit("there are no results of this plan")
    for path in write_pages(
        results,
        plan,
        given.docs,
        given.output,
        given.recommended,
        figures=not given.no_figures,
    ):
        print(path)


if __name__ == "__main__":
    main()
