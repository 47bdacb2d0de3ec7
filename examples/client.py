"""Sums a file through stream-sum, from another language.

The client does not know how streams are hashed to partitions: it publishes to chunk.<ID>, and the server's account
mapping takes each chunk to the log of its stream.
"""

import asyncio
import os
import sys

import msgpack
import nats


async def main(path: str) -> None:
    client = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    jetstream = client.jetstream()
    stream_id = os.urandom(16)
    name = stream_id.hex()
    finals = await jetstream.subscribe(f"sums.{name[:8]}.{name[8:]}", ordered_consumer=True)
    with open(path, "rb") as file:
        seq_no, data = 0, b"-"
        while data:  # the chunk without data ends the stream
            seq_no, data = seq_no + 1, file.read(64 * 1024)
            chunk = msgpack.packb([stream_id, seq_no, data])
            # Returns once it is stored, and fails where nobody says so. Then the same chunk may be sent again: what
            # was stored all the same is dropped as a duplicate.
            await jetstream.publish(f"chunk.{name}", chunk)
    final = await finals.next_msg(timeout=40)
    summed_id, last_seq_no, sha1 = msgpack.unpackb(final.data)
    assert (summed_id, last_seq_no) == (stream_id, seq_no)
    print(f"{sha1.hex()}  by way of {name}")
    await client.close()


asyncio.run(main(sys.argv[1]))
