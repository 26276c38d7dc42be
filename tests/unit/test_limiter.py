"""The token bucket lets a burst through and then keeps its rate."""

from penstock.kube.limiter import TokenBucket


class Time:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))


def bucket(time: Time) -> TokenBucket:
    return TokenBucket(rate=10, burst=3, clock=time.clock, sleep=time.sleep)


async def test_a_burst_goes_through_at_once_and_the_rest_waits_its_turn() -> None:
    time = Time()
    limiter = bucket(time)
    for _ in range(6):
        await limiter.acquire()
    assert time.slept == [0.1, 0.2, 0.3]


async def test_tokens_come_back_with_time_but_never_beyond_the_burst() -> None:
    time = Time()
    limiter = bucket(time)
    for _ in range(3):
        await limiter.acquire()
    time.now += 100
    for _ in range(4):
        await limiter.acquire()
    assert time.slept == [0.1]
