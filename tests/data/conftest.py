import datasets


datasets.disable_progress_bars()
