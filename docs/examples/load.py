"""Measures a server of explanations: clients that each wait for an answer before they ask again.

    python load.py http://localhost:8000 3.png 5.png --clients 1 8 32 --seconds 20

Needs nothing but Python.
"""

import argparse
import http.client
import itertools
import json
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit


def client(place: str, bodies: list, until: float, times: list, failures: list) -> None:
    """Ask again and again over one connection."""
    connection = http.client.HTTPConnection(place, timeout=60)
    for body in itertools.cycle(bodies):
        began = time.perf_counter()
        if began > until:
            return
        connection.request("POST", "/", body)
        answer = connection.getresponse()
        answer.read()
        if answer.status == 200:
            times.append(time.perf_counter() - began)
        else:
            failures.append(answer.status)


def served(place: str) -> tuple[int, int]:
    """How many batches and samples the server has explained."""
    connection = http.client.HTTPConnection(place, timeout=60)
    connection.request("GET", "/")
    answer = json.loads(connection.getresponse().read())
    return answer["batches"], answer["samples"]


def measure(place: str, bodies: list, clients: int, seconds: float) -> dict:
    """Requests a second, times of an answer, and the mean size of a batch."""
    times: list = []
    failures: list = []
    before, began = served(place), time.perf_counter()
    threads = [
        threading.Thread(
            target=client, args=(place, bodies, began + seconds, times, failures), daemon=True
        )
        for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    batches, samples = (now - then for now, then in zip(served(place), before, strict=True))
    ranked = sorted(times) or [float("nan")]
    return {
        "clients": clients,
        "requests a second": len(times) / took,
        "median ms": 1000 * ranked[len(ranked) // 2],
        "95th percentile ms": 1000 * ranked[int(0.95 * (len(ranked) - 1))],
        "mean batch": samples / max(batches, 1),
        "failed": len(failures),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    place = urlsplit(arguments.url).netloc
    bodies = [picture.read_bytes() for picture in arguments.pictures]
    measure(place, bodies, 4, 2)  # what is done once is not measured
    for number, clients in enumerate(arguments.clients):
        found = measure(place, bodies, clients, arguments.seconds)
        if number == 0:
            print("| " + " | ".join(found) + " |\n|" + "---|" * len(found))
        print("| " + " | ".join(f"{value:.4g}" for value in found.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
