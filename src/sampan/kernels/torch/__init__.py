from sampan.core.openmp import wait_briefly

wait_briefly()
