"""`edgebeat doctor`: what would hurt the agent on this device, one room for each part of it.

What is below /proc, /sys, /dev and /etc is read below a root that tests make; what asks the kernel, the camera or the
broker comes in as a function.
"""
