"""What happens during training beside the loss: logs, checkpoints, validation, stops."""
