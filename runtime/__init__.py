"""What runs on the device: the link, the guard and the loop. Knows neither JAX nor MuJoCo."""
