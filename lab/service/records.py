#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""Who was up when: a table with one record for each worker.

It stands for the table of services that a daemon has, or gets, in the
database of its project. Each call has a connection of its own.
"""

import contextlib
import sqlite3
import time

TABLE = '''CREATE TABLE IF NOT EXISTS services
           (host TEXT PRIMARY KEY, last_seen_up REAL NOT NULL)'''


@contextlib.contextmanager
def _connection(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        # Committed, or rolled back, at the end.
        with connection:
            connection.execute(TABLE)
            yield connection


def write(path, host):
    """Write the heartbeat of a worker; its record is made if there is none.

    :param path: of the database's file
    :param host: the worker host
    :raises sqlite3.Error: if it cannot be written
    """
    with _connection(path) as connection:
        connection.execute('REPLACE INTO services VALUES (?, ?)',
                           (host, time.time()))


def ages(path):
    """How many seconds ago each worker was up.

    :param path: of the database's file
    :returns: dict: worker host -> seconds
    :raises sqlite3.Error: if it cannot be read
    """
    with _connection(path) as connection:
        now = time.time()
        return {host: now - seen for host, seen in connection.execute(
            'SELECT host, last_seen_up FROM services ORDER BY host')}
