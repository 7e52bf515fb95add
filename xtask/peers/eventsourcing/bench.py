"""Orders kept by the Python library eventsourcing on PostgreSQL, driven in process: bench.py CLIENTS SECONDS PLAIN.

Two processes share the clients, each with a thread a client: one interpreter runs one thread at a time. Says "ready"
when it is warm, measures once when it is told "go", reports one line of JSON, and ends when its input does.
"""

import json
import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

PROCESSES = 2
WARM_UP_SECONDS = 1.0
UPDATES = 4
# With its note of so many letters, the data of a command is 1 KiB of JSON.
NOTE_LETTERS = 930
# More connections than this only wait for the lock that the library takes on its table.
CONNECTIONS_MAX = 16


class Order(Aggregate):
    @event("Created")
    def __init__(self, data):
        self.data = data

    @event("Updated")
    def update(self, data):
        self.data = data


class Orders(Application):
    def create(self, data):
        order = Order(data)
        self.save(order)
        return order.id

    def update(self, order_id, expected, data):
        order = self.repository.get(order_id)
        if order.version != expected:
            raise RuntimeError(f"expected version {expected}, found {order.version}")
        order.update(data)
        self.save(order)


def data(letters, number):
    """The data of a command, for the command of this number."""
    at = number * 7919 % (len(letters) - NOTE_LETTERS)
    note = letters[at : at + NOTE_LETTERS]
    return {"customer": "c1", "product": "p1", "quantity": 3, "price": 9.5, "currency": "EUR", "note": note}


def client(orders, letters, first, until, latencies):
    """Creates an order, updates it, and begins again until time is up."""
    while True:
        order_id = None
        for version in range(UPDATES + 1):
            begin = time.perf_counter()
            if begin >= until:
                return
            changed = data(letters, first + len(latencies))
            if version == 0:
                order_id = orders.create(changed)
            else:
                orders.update(order_id, version, changed)
            latencies.append(time.perf_counter() - begin)


def run(orders, clients, first, seconds):
    """The latencies of all commands that began in so many seconds. An error in any client is raised here."""
    letters = Path("letters").read_text()
    latencies = [[] for _ in range(clients)]
    errors = []
    until = time.perf_counter() + seconds

    def guarded(number):
        try:
            client(orders, letters, (first + number) * 1009, until, latencies[number])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [latency for one in latencies for latency in one]


def environment(connections):
    url = urlsplit(os.environ["PEER_POSTGRES_URL"])
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": url.path.lstrip("/"),
        "POSTGRES_HOST": url.hostname,
        "POSTGRES_PORT": str(url.port),
        "POSTGRES_USER": url.username,
        "POSTGRES_PASSWORD": url.password,
        "POSTGRES_POOL_SIZE": str(connections),
        "POSTGRES_MAX_OVERFLOW": "0",
        "POSTGRES_MAX_WAITING": "1000",
        # A commit in one round trip to the database: without, it takes a third more CPU time.
        "POSTGRES_ENABLE_DB_FUNCTIONS": "yes",
    }


def worker(number, clients, seconds, pipe):
    """One process: warm-up, then for each message of the pipe one measured run."""
    orders = Orders(environment(min(clients, CONNECTIONS_MAX)))
    pipe.send("there are tables")
    pipe.recv()
    run(orders, clients, 1000 * number, WARM_UP_SECONDS)
    pipe.send("warm")
    pipe.recv()
    begin = time.perf_counter()
    latencies = run(orders, clients, 1000 * number, seconds)
    pipe.send((latencies, time.perf_counter() - begin))
    pipe.recv()


def main():
    clients, seconds = int(sys.argv[1]), float(sys.argv[2])
    shares = [share for share in (clients - clients // PROCESSES, clients // PROCESSES) if share > 0]
    pipes = []
    for number, share in enumerate(shares):
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.Process(target=worker, args=(number, share, seconds, theirs), daemon=True)
        process.start()
        # Only the worker holds its end now: if it fails, reading from ours fails too.
        theirs.close()
        # One after the other: tables that two processes make at once are in each other's way.
        ours.recv()
        pipes.append(ours)

    def ask_all():
        for pipe in pipes:
            pipe.send("go on")
        return [pipe.recv() for pipe in pipes]

    ask_all()
    print("ready", flush=True)
    sys.stdin.readline()
    answers = ask_all()
    latencies = sorted(latency for share, _ in answers for latency in share)
    took = max(seconds for _, seconds in answers)

    def at(share):
        return latencies[min(len(latencies) - 1, int(share * len(latencies)))] * 1000

    print(json.dumps({"commands": len(latencies), "seconds": took, "p50_ms": at(0.5), "p99_ms": at(0.99)}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
