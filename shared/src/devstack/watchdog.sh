# shellcheck shell=sh
# Runs a program that cannot outlive its owner: sh -c WATCHDOG PROGRAM ARGUMENT…
#
# The environment says by which signal to stop it, and how often to look, every 50 ms, whether it is gone.
#
# Descriptors: 0 is the socket to the owner, 1 the program's output, 2 whatever is to stay open until all is over. The
# socket moves to 3 because a shell gives its background children /dev/null as standard input. The program and `sleep`
# inherit neither, so nothing but the watchdog can keep them open.
signal=$WATCHDOG_STOP_SIGNAL polls=$WATCHDOG_STOP_POLLS
unset WATCHDOG_STOP_SIGNAL WATCHDOG_STOP_POLLS
exec 3<&0 4>&2 </dev/null 2>&1
"$0" "$@" 3<&- 4>&- &
program=$!
# By a subshell, for it is SIGPIPE that tells of an owner who is gone already.
(echo "$program" >&3)
{
    # Ends when the owner's end of the socket closes, whatever closes it.
    read -r _ <&3
    kill -s "$signal" "$program"
    # A suspended program acts on the signal only when it goes on.
    kill -s CONT "$program"
    while [ "$polls" -gt 0 ] && kill -s 0 "$program"; do
        sleep 0.05 3<&- 4>&-
        polls=$((polls - 1))
    done
    kill -s KILL "$program"
} >/dev/null 2>&1 &
listener=$!
# How the program ended is for the owner to tell.
exec 3<&- 2>/dev/null
wait "$program"
status=$?
kill -s KILL "$listener"
exit "$status"
