"""What the wearer is: skeleton, muscle paths, muscles, synergies and their energetics."""
