"""From a data file to a measured adapter, on TRL's SFTTrainer."""
