"""Side-by-side measurements against other trainers: `python -m bench.train`. See bench/README.md."""
