"""A large JSON document: work for a parser that keeps the whole tree in memory."""

import json
from pathlib import Path
from random import Random


def json_records(path: Path, *, records: int, seed: int = 6) -> Path:
    """Writes one array of `records` nested objects."""
    random = Random(seed)
    with path.open("w", encoding="ascii") as out:
        out.write("[")
        for number in range(records):
            record = {
                "id": number,
                "name": f"n{random.randrange(10**6)}",
                "at": [random.randrange(1000), random.randrange(1000)],
                "more": {"ok": random.random() < 0.5, "score": random.randrange(10**4)},
            }
            out.write(("," if number else "") + json.dumps(record))
        out.write("]\n")
    return path
