import threading

import pytest

from cxrjax.data import parallel


@pytest.mark.parametrize("together", [1, 3])
def test_results_come_in_order_and_few_wait(together):
    taken = []

    def items():
        for i in range(50):
            taken.append(i)
            yield i

    results = parallel.ordered_map(lambda i: i * i, items(), 2, together)
    assert next(results) == 0
    assert len(taken) <= (4 * 2 + 1) * together  # the rest is read as results are taken
    assert list(results) == [i * i for i in range(1, 50)]


def test_items_go_to_a_thread_together():
    threads = {}

    def of(i):
        return threads.setdefault(i // 4, threading.get_ident()) == threading.get_ident()

    assert all(parallel.ordered_map(of, range(40), 3, together=4))


@pytest.mark.parametrize("together", [1, 4])
def test_what_goes_wrong_comes_in_its_place(together):
    def of(i):
        if i == 5:
            raise ValueError("the sixth")
        return i

    found = []
    with pytest.raises(ValueError, match="the sixth"):
        for i in parallel.ordered_map(of, range(20), 2, together):
            found.append(i)
    assert found == [0, 1, 2, 3, 4]
