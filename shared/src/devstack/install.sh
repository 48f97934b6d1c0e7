# shellcheck shell=sh
# Finds the programs of private servers; installs them first where that is safe: on Debian or Ubuntu, as root.
#
# sh -c INSTALL install NAME…     NAME is rabbitmq, postgres, redis, pgbouncer or chromium
#
# Servers come from the folder TURNSTILE_SERVERS, where it is set (functions/deploy/servers.sh makes one).
#
# Standard output has the programs' paths, a line each, and the exit code is 0; or it says what a person has to do, and the
# exit code is 69. No system service is started or enabled.
set -u

os_release=${TURNSTILE_OS_RELEASE:-/etc/os-release}
# Only root installs, and only root writes here. Two runs that install at once take turns at the lock.
lock=${TURNSTILE_INSTALL_LOCK:-/run/turnstile-install.lock}
# What Debian asks before a package starts a service: 101 forbids it.
policy=${TURNSTILE_POLICY:-/usr/sbin/policy-rc.d}
mark='# Written by turnstile while it installs packages; remove it if no installation runs.'

has() { command -v "$1" >/dev/null 2>&1; }

# What a pattern names, the highest version first.
newest() {
    # shellcheck disable=SC2086 # the pattern is to be expanded
    for path in $1; do [ -e "$path" ] && printf '%s\n' "$path"; done | sort -rV
}

# Of the folders after the names, the first that has both programs.
pair() {
    one=$1 other=$2
    shift 2
    for folder in "$@"; do
        if [ -f "$folder/$one" ] && [ -f "$folder/$other" ]; then
            printf '%s\n' "$folder/$one" "$folder/$other"
            return 0
        fi
    done
    return 1
}

# The folder of a program in PATH.
folder_of() {
    program=$(command -v "$1" 2>/dev/null) && printf '%s\n' "${program%/*}"
}

# What a server's programs are called in the folder TURNSTILE_SERVERS.
given() {
    [ -n "${TURNSTILE_SERVERS:-}" ] || return 0
    case $1 in
    rabbitmq) echo rabbitmq-server rabbitmqctl epmd ;;
    postgres) echo postgres initdb ;;
    redis) echo redis-server ;;
    esac
}

find_programs() {
    given=$(given "$1")
    if [ -n "$given" ]; then
        # These and no others: whoever names a folder means its versions.
        for program in $given; do
            [ -f "$TURNSTILE_SERVERS/$program" ] && printf '%s\n' "$TURNSTILE_SERVERS/$program" || return
        done
        return
    fi
    case $1 in
    rabbitmq)
        # Packages keep the real scripts here; what they put into `sbin` is a wrapper that insists on the user `rabbitmq`.
        # shellcheck disable=SC2046 # no such folder has a space in its name
        pair rabbitmq-server rabbitmqctl /usr/lib/rabbitmq/bin $(newest '/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin') \
            /opt/homebrew/opt/rabbitmq/sbin /usr/local/opt/rabbitmq/sbin "$(folder_of rabbitmq-server)" &&
            command -v epmd
        ;;
    postgres)
        # Debian and Fedora keep the server programs of each version out of PATH; so does Homebrew.
        # shellcheck disable=SC2046
        pair postgres initdb "$(folder_of postgres)" $(newest '/usr/lib/postgresql/*/bin') $(newest '/usr/pgsql-*/bin') \
            $(newest '/opt/homebrew/opt/postgresql@*/bin') $(newest '/usr/local/opt/postgresql@*/bin') \
            $(newest '/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin')
        ;;
    redis)
        # Valkey speaks the same, and is started the same way.
        command -v redis-server || command -v valkey-server ||
            pair redis-server redis-server /opt/homebrew/bin /usr/local/bin /home/linuxbrew/.linuxbrew/bin | head -n 1 | grep .
        ;;
    pgbouncer)
        # Debian keeps it out of the PATH of who is not root.
        command -v pgbouncer || pair pgbouncer pgbouncer /usr/sbin /opt/homebrew/bin /usr/local/bin | head -n 1 | grep .
        ;;
    chromium)
        command -v chromium || command -v chromium-browser || command -v google-chrome || command -v google-chrome-stable
        ;;
    *) return 1 ;;
    esac
}

# Those of the names whose programs are not there.
missing() {
    for name in "$@"; do find_programs "$name" >/dev/null || printf '%s ' "$name"; done
}

# The system by its os-release file; where that does not tell, by its package program.
system() {
    ids=$(sed -n 's/^ID=//p; s/^ID_LIKE=//p' "$os_release" 2>/dev/null | tr -d "\"'" | tr '\n' ' ')
    case " $ids " in
    *" debian "* | *" ubuntu "*) if has apt-get; then echo debian && return; fi ;;
    *" fedora "* | *" rhel "* | *" centos "*) if has dnf; then echo fedora && return; fi ;;
    esac
    if has brew; then echo homebrew; else echo other; fi
}

# What this system calls it.
package() {
    case $1-$2 in
    debian-rabbitmq | fedora-rabbitmq) echo rabbitmq-server ;;
    homebrew-rabbitmq) echo rabbitmq ;;
    other-rabbitmq) echo RabbitMQ ;;
    debian-postgres) echo postgresql ;;
    fedora-postgres) echo postgresql-server ;;
    homebrew-postgres) echo postgresql@17 ;;
    other-postgres) echo PostgreSQL ;;
    debian-redis) echo redis-server ;;
    fedora-redis) echo valkey ;;
    homebrew-redis) echo redis ;;
    other-redis) echo Redis ;;
    other-pgbouncer) echo PgBouncer ;;
    *-pgbouncer) echo pgbouncer ;;
    other-chromium) echo Chromium ;;
    *) echo chromium ;;
    esac
}

packages() {
    on=$1
    shift
    list=
    for name in "$@"; do list="$list $(package "$on" "$name")"; done
    echo "${list# }"
}

# Says what a person has to do, and ends with 69.
tell() {
    case $1 in
    debian) run='sudo apt-get install --no-install-recommends' ;;
    fedora) run='sudo dnf install' ;;
    homebrew) run='brew install' ;;
    *) run='your package manager for' ;;
    esac
    command="$run $(packages "$@")"
    [ "$1" = other ] && command="$command, with their programs in PATH"
    shift
    names=$(packages other "$@" | sed 's/ / and /g')
    are=are urls='AMQP_URL and DATABASE_URL'
    [ $# = 1 ] && are=is
    case " $* " in *" redis "*) urls='AMQP_URL, DATABASE_URL and REDIS_URL' ;; esac
    case " $* " in
    *" rabbitmq "* | *" postgres "* | *" redis "*)
        printf '%s %s not installed. Either run\n  %s\n' "$names" "$are" "$command"
        printf 'or set %s to servers that run already.\n' "$urls"
        ;;
    *) printf '%s %s not installed. Run\n  %s\n' "$names" "$are" "$command" ;;
    esac
    exit 69
}

# Has services forbidden until this shell ends. A policy of the machine's own stays; it fails where that one allows them. A
# file that an earlier run left behind (a power cut) is known by its second line.
forbid_services() {
    if [ -e "$policy" ] && ! grep -qxF "$mark" "$policy"; then
        "$policy" turnstile start >/dev/null 2>&1
        [ $? -eq 101 ]
        return
    fi
    # Signals wait until the package program has ended: half an installation is worse than a late end.
    trap 'rm -f -- "$policy" "$policy.turnstile"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy.turnstile"
    chmod 755 "$policy.turnstile" && mv -- "$policy.turnstile" "$policy"
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" </dev/null
}

# Package lists are fetched only if the packages cannot be had without. Services do not start with the machine either.
install_packages() {
    apt_get install --no-install-recommends "$@" || { apt_get update && apt_get install --no-install-recommends "$@"; } || return
    if has systemctl; then for unit in "$@"; do systemctl disable "$unit"; done; fi
    return 0
}

# shellcheck disable=SC2046,SC2086 # names and packages are words
ensure() {
    set -- $(missing "$@")
    [ $# = 0 ] && return
    given=$(for name in "$@"; do given "$name"; done)
    if [ -n "$given" ]; then
        echo "TURNSTILE_SERVERS=$TURNSTILE_SERVERS is to be the absolute path of a folder with the programs" $given
        exit 69
    fi
    on=$(system)
    if [ "$on" != debian ] || [ "$(id -u)" != 0 ]; then tell "$on" "$@"; fi
    exec 9>"$lock" && flock -w 900 9 || echo "another installation holds $lock"
    # Another run may have done it while we waited for our turn.
    set -- $(missing "$@")
    [ $# = 0 ] && return
    if ! forbid_services; then
        echo "Not installed for you, because $policy of this machine lets packages start their services at once."
        tell "$on" "$@"
    fi
    log=$(mktemp "${TMPDIR:-/tmp}/turnstile-install.XXXXXX")
    echo "installing $(packages "$on" "$@") with apt-get, once; this takes a minute (log: $log)" >&2
    # The lock is ours, and no child's.
    if install_packages $(packages "$on" "$@") >"$log" 2>&1 9>&-; then
        rm -f -- "$log"
    else
        printf 'apt-get failed; %s ends with\n' "$log"
        tail -n 20 "$log"
    fi
    set -- $(missing "$@")
    [ $# = 0 ] || tell "$on" "$@"
}

find_all() {
    for name in "$@"; do find_programs "$name" || return; done
}

if ! found=$(find_all "$@"); then
    ensure "$@"
    found=$(find_all "$@") || exit
fi
printf '%s\n' "$found"
