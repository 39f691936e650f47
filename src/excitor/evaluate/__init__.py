"""What fine-tuning changed: models measured against their base."""
