"""The decisions of Penstock: pure functions on frozen data. No clock, no network, no randomness in here."""
