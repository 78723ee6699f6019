"""What the lessons use: exercises that check themselves, and the reference solutions."""
