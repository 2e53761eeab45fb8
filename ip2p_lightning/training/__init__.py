"""The LightningModule, its Trainer and callbacks."""
