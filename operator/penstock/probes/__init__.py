"""What is measured from outside: the routers' word on routes and counters. Reads only, and only while asked to."""
