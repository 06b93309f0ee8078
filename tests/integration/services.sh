#!/bin/sh
# Installs RabbitMQ and MariaDB where they are missing, and starts RabbitMQ
# where none answers at 127.0.0.1:5672; "services.sh stop" stops it. MariaDB
# only has to be installed: Debian's lets root in by its socket only, and
# stays as it is, for the tests start one of their own beside it.
set -eu

answers() {
    python3 -c "import socket
socket.create_connection(('127.0.0.1', $1), 3).close()" 2>/dev/null
}

has_mariadb() {
    answers 3306 || PATH="$PATH:/usr/sbin" command -v mariadbd >/dev/null
}

rabbitmq() {
    if [ -d /run/systemd/system ]; then
        systemctl "$1" rabbitmq-server
    elif [ "$1" = start ]; then
        RABBITMQ_NODENAME=rabbit@localhost rabbitmq-server -detached
    else
        rabbitmqctl --quiet --node rabbit@localhost stop
    fi
}

if [ "${1-}" != stop ] && answers 5672 && has_mariadb; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || [ ! -e /etc/debian_version ]; then
    echo 'services.sh: needs root on Debian' >&2
    exit 1
fi
if [ "${1-}" = stop ]; then
    rabbitmq stop
    exit
fi

if ! [ -x /usr/sbin/rabbitmq-server ] || ! has_mariadb; then
    apt-get update --quiet
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes \
        --no-install-recommends rabbitmq-server mariadb-server
fi
answers 5672 || rabbitmq start
for _ in $(seq 60); do
    answers 5672 && exit 0
    sleep 1
done
echo 'services.sh: RabbitMQ does not answer at 127.0.0.1:5672' >&2
exit 1
