"""`penstock run` without the operator's own rate limit: fills a cluster for a benchmark, is never measured itself."""

from penstock.cli import main
from penstock.kube.limiter import TokenBucket

if __name__ == "__main__":
    TokenBucket.__init__.__defaults__ = (10_000.0, 10_000)
    main()
