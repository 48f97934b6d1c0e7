# shellcheck shell=sh
# Runs a program that cannot outlive its owner: sh -c WATCHDOG watchdog SIGNAL POLLS SECONDS_PER_POLL PROGRAM ARGUMENT…
#
# Descriptors: 0 is the socket to the owner, 1 the program's output, 2 whatever is to stay open until all is over. The
# socket moves to 3 because a shell gives its background children /dev/null as standard input. The program and `sleep`
# inherit neither, so nothing but the watchdog can keep them open.
signal=$1 polls=$2 pause=$3
shift 3
exec 3<&0 4>&2 </dev/null 2>&1
"$@" 3<&- 4>&- &
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
        sleep "$pause" 3<&- 4>&-
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
