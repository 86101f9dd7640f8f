"""What the shipped networks reached: tables, pictures, races, and how a run is shipped."""
