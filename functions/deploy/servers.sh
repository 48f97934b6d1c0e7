#!/bin/sh
# Makes a folder with the servers of another Debian release, RabbitMQ, PostgreSQL and Redis, to test on before moving to
# them: TURNSTILE_SERVERS=FOLDER cargo test …
#
# sh servers.sh SUITE FOLDER [MIRROR]     SUITE is trixie, sid, …; FOLDER is not there yet; MIRROR as debootstrap takes it
#
# From packages alone, by debootstrap, as root. It takes some minutes and 900 MB; nothing is changed outside of FOLDER, and no
# service starts. Whoever runs the programs need not be root, but user namespaces must be allowed.
set -eu

if [ $# -lt 2 ] || [ $# -gt 3 ]; then
    sed -n '5s/^# //p' "$0" >&2
    exit 2
fi
suite=$1 folder=$2
if [ -e "$folder" ]; then
    echo "$folder is there already; remove it first" >&2
    exit 2
fi
shift 2
debootstrap --variant=minbase --include=rabbitmq-server,postgresql,redis-server "$suite" "$folder" "$@"
cd "$folder"
# Packages are of no use any more.
rm -rf var/cache/apt/archives/*.deb var/lib/apt/lists/*

# A program of the tree sees this machine with another /usr, which is all that a program needs of a release: files, users,
# process ids and network are as they are outside. It has no process beside it, and leaves no mount behind. Root, where it may
# mount, needs no user namespace, in which other users' files are closed to it.
for program in usr/lib/rabbitmq/bin/rabbitmq-server usr/lib/rabbitmq/bin/rabbitmqctl usr/bin/epmd usr/bin/redis-server \
    usr/lib/postgresql/*/bin/*; do
    cat >"${program##*/}" <<END
#!/bin/sh
# Runs /$program of this folder, whose /usr lies over the machine's for this process alone.
exec unshare \$(unshare --mount true 2>/dev/null || echo --user --map-current-user --keep-caps) --mount \\
    sh -c 'mount --bind "\$0/usr" /usr && exec "\$@"' "\${0%/*}" /$program "\$@"
END
    chmod 755 "${program##*/}"
done

echo "$folder has"
./rabbitmqctl version | sed 's/^/RabbitMQ /'
./postgres --version
./redis-server --version
