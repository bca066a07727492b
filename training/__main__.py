"""`python -m edgekit.training RECIPE`, and `accelerate launch -m edgekit.training RECIPE` for several processes."""

from edgekit.cli.train import main

if __name__ == "__main__":
    main()
