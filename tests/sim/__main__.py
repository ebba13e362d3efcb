"""Run seeds: ``python -m tests.sim --seeds 300 --from 0``; a failing one is printed and replays exactly."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.sim.run import Result, build, play


def run_seed(seed: int) -> Result:
    return play(build(seed))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many worlds")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--log", action="store_true", help="print what happened in the world of a failing seed")
    parser.add_argument("--trace", action="store_true", help="with --log: every event and effect")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    began, steps, failed = time.monotonic(), 0, []
    with ProcessPoolExecutor(options.jobs) as pool:
        for result in pool.map(run_seed, seeds, chunksize=4):
            steps += result.steps
            if result.violations:
                failed.append(result)
                print(f"seed {result.seed} fails: {result.violations[0]}", flush=True)
    print(f"{len(seeds)} seeds, {steps} steps, {len(failed)} failed, {time.monotonic() - began:.1f} s")
    if failed:
        seed = failed[0].seed
        print(f"replaying seed {seed}; again with: make sim SEEDS=1 FROM={seed}")
        world = build(seed)
        world.verbose = options.trace
        again = play(world)
        for line in world.log if options.log else world.log[-30:]:
            print(line)
        for violation in again.violations:
            print(f"seed {seed}: {violation}")
        if again.trace != failed[0].trace:
            print(f"seed {seed} did not replay exactly: {again.trace} is not {failed[0].trace}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
