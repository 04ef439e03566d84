/* Moves the wall clock that a program sees, loaded by LD_PRELOAD: by as many seconds as the file named in
   DBAGENT_TEST_CLOCK says at this moment. Monotonic time stays what it is, as it does while a machine is suspended. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    long answer = syscall(SYS_clock_gettime, clock, now);
    const char *path = getenv("DBAGENT_TEST_CLOCK");
    if (answer != 0 || clock != CLOCK_REALTIME || path == NULL)
        return (int)answer;
    char text[32] = {0};
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        if (read(file, text, sizeof text - 1) > 0)
            now->tv_sec += atol(text);
        close(file);
    }
    return 0;
}
