import logging
import threading

from snnrun.outbox import Outbox


def test_items_arrive_in_order_without_waiting():
    arrived, gate = [], threading.Event()
    outbox = Outbox(lambda item: (gate.wait(), arrived.append(item)))

    for item in range(5):
        outbox.put(item)
    assert outbox.waiting() == [0, 1, 2, 3, 4]

    gate.set()
    assert outbox.flush() is None
    assert (arrived, outbox.waiting()) == ([0, 1, 2, 3, 4], [])
    outbox.close()


def test_outage_keeps_items_and_warns_once(caplog):
    caplog.set_level(logging.WARNING)
    arrived, away = [], True

    def send(item):
        if away:
            raise ConnectionError("nobody there")
        arrived.append(item)

    outbox = Outbox(send)
    for item in range(3):
        outbox.put(item)
        assert isinstance(outbox.flush(), ConnectionError)
    assert outbox.waiting() == [0, 1, 2]
    assert [r.message for r in caplog.records] == [
        "Not delivered (nobody there); kept, the run goes on"
    ]

    away = False
    outbox.put(3)
    assert outbox.flush() is None
    assert arrived == [0, 1, 2, 3]
    assert caplog.records[-1].message == "Delivered again"
    outbox.close()
