"""What the inference plane is asked and how it answers, over the last hour: its metrics, read again and again."""
