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

"""What more than one command takes."""


def add_mode(parser):
    """Add ``--mode``: that of nova's services."""
    parser.add_argument('--mode', choices=['threading', 'eventlet'],
                        help='(default: threading, if it has that)')


def add_service(parser):
    """Add ``--service``: which of nova's."""
    parser.add_argument('--service', default='scheduler',
                        choices=('scheduler', 'conductor'),
                        help='whose workers (default: %(default)s)')


def add_stock(parser):
    """Add ``--stock``: the nova to compare with."""
    parser.add_argument('--stock', metavar='TREE',
                        help='folder of a nova without the series, from the '
                             'repository on (default: made of the built '
                             'tree)')
