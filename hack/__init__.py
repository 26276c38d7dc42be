"""Developer tools of the repository: nothing in here is shipped."""
