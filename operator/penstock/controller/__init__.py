"""The loop: watch events in, plans out, and the wiring of every other room. The only room where all others meet."""
