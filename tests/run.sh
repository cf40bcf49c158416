#!/usr/bin/env bash
# Runs every test, on real servers: gets them where the machine has none, without root and without
# changing anything outside target/. Arguments go to `cargo test`.
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/.."
servers=$PWD/target/servers

die() {
    printf 'tests/run.sh: %s\n' "$1" >&2
    cat >&2 <<END
The tests need Consul, etcd, BIND, Prometheus, and ZooKeeper with Curator. For each of them, any of
these will do:
  - put a consul, etcd, prometheus (with promtool) or java binary on PATH, or set CONSUL_BIN, ETCD_BIN,
    PROMETHEUS_BIN or JAVA_BIN to one, or
    BIND_ROOT to the folder below which usr/sbin/named and usr/bin/nsupdate are, or ZOOKEEPER_ROOT
    and CURATOR_ROOT to the folders below which their jars are in usr/share/java
  - on Debian, with apt-get, dpkg and debian-archive-keyring installed, let this script get the
    packages consul of Debian 11, and etcd-server, bind9, prometheus, libzookeeper-java, libcurator-discovery-java
    (with what they need) and openjdk-17-jre-headless of Debian 12 from the mirrors the machine is
    set up with
  - set ROSTER_SERVER_CACHE to a folder with these packages in it, NAME_VERSION_ARCHITECTURE.deb
A browser for the status page is not fetched, because with its libraries it has 300 MB: install
chromium and chromium-driver, or its tests are noted as not run.
'cargo test' alone runs the tests that need no server.
END
    exit 1
}

# The first package of this name in the cache whose version begins with $2, for this machine; nothing
# when there is none.
cached() {
    local found
    [[ -n ${ROSTER_SERVER_CACHE:-} ]] || return 0
    for found in "$ROSTER_SERVER_CACHE/$1"_"$2"*_{"$(dpkg --print-architecture)",all}.deb; do
        [[ -f $found ]] || continue
        printf '%s\n' "$found"
        return 0
    done
}

# Fails when the cache has digests and the package's is not among them, or is another.
verify() {
    local dir name sum
    dir=$(dirname "$1")
    name=$(basename "$1")
    if [[ ! -f $dir/SHA256SUMS ]]; then
        echo "no SHA256SUMS beside $name: taken as it is"
        return
    fi
    sum=$(awk -v name="$name" '$2 == name || $2 == "*" name { print $1; exit }' "$dir/SHA256SUMS")
    [[ -n $sum ]] || die "$dir/SHA256SUMS does not list $name"
    printf '%s  %s\n' "$sum" "$1" | sha256sum --check --quiet - \
        || die "$name is not what $dir/SHA256SUMS says"
}

# The archives this machine installs from, each once, Debian's own first. apt reads its sources
# itself, whatever their format; it prints '…/dists/SUITE/InRelease' without fetching anything.
mirrors() {
    apt-get update --print-uris 2>/dev/null \
        | sed -n "s|^'\\(.*\\)/dists/[^/]*/InRelease'.*|\\1|p" \
        | awk '!seen[$0]++ { if ($0 ~ /\/debian$/) print; else rest = rest $0 "\n" }
               END { printf "%s", rest }'
}

# apt with sources, lists and cache of its own. Hooks of the system's configuration are cleared:
# some of them clean up in the system's cache.
private_apt() {
    apt-get -c "$apt/apt.conf" "$@"
}

# Downloads the package $1 of the suite $2 into the current folder.
download() {
    local suite=$2 mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    command -v apt-get >/dev/null || die "no apt-get"
    [[ -f $keyring ]] || die "no $keyring: install debian-archive-keyring"
    apt=$servers/apt
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    cat >"$apt/apt.conf" <<END
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$apt/lists";
Dir::Cache "$apt/cache";
Dir::Cache::archives "archives";
APT::Sandbox::User "";
APT::Get::List-Cleanup "true";
Acquire::Languages "none";
Acquire::Retries "3";
// The suite's signature outlives the date in its Release file, once it is archived.
Acquire::Check-Valid-Until "false";
END
    for mirror in $(mirrors); do
        echo "looking for $1 in $suite at one of this machine's mirrors"
        printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite" \
            >"$apt/sources.list"
        if private_apt update --error-on=any >"$apt/log" 2>&1 \
            && private_apt download "$1" >>"$apt/log" 2>&1; then
            return
        fi
        sed 's/^/    /' "$apt/log" >&2
    done
    die "none of this machine's apt sources has $1 of $suite"
}

# Unpacks the package $1 of the suite $2, and the packages that follow, into target/servers/$1. With a
# version, as in NAME=VERSION, a package of the cache must have one that begins so.
fetch() {
    local name package suite=$2 into=$servers/${1/=/-} wanted
    local partial=$into.partial
    command -v dpkg >/dev/null || die "no dpkg"
    rm -rf "$partial"
    mkdir -p "$partial/deb"
    for name in "$1" "${@:3}"; do
        wanted=${name#"${name%%=*}"}
        name=${name%%=*}
        package=$(cached "$name" "${wanted#=}")
        if [[ -n $package ]]; then
            echo "$name: from the cache, $(basename "$package")"
            verify "$package"
        else
            (cd "$partial/deb" && download "$name" "$suite") || return 1
            package=$(echo "$partial/deb/$name"_*.deb)
        fi
        dpkg -x "$package" "$partial/root" || return 1
    done
    # Whole or not at all: a run that was stopped half way leaves nothing that looks complete.
    rm -rf "$into"
    mv "$partial/root" "$into"
    rm -rf "$partial"
}

# Prints the path of a program: what the variable $1 names, else $2 on PATH, else the file $2 of the
# package $3 of the suite $4.
program() {
    local bin=${!1:-}
    if [[ -n $bin ]]; then
        [[ -x $bin ]] || die "$1 is no program: $bin"
    elif command -v "$2" >/dev/null; then
        bin=$(command -v "$2")
    else
        bin=$servers/$3/usr/bin/$2
        [[ -x $bin ]] || fetch "$3" "$4" >&2
    fi
    # Tests run elsewhere than here.
    realpath "$bin"
}

# Prints the version of a program, which is the first line of what $@ says.
version() {
    local version
    # No pipe to head: it may close before the program has written all, which counts as a failure.
    version=$("$@") || die "$1 does not run here"
    echo "${version%%$'\n'*}: $1"
}

CONSUL_BIN=$(program CONSUL_BIN consul consul bullseye)
ETCD_BIN=$(program ETCD_BIN etcd etcd-server bookworm)
PROMETHEUS_BIN=$(program PROMETHEUS_BIN prometheus prometheus bookworm)
# The tests that name a difference of etcd 3.5, which is in Debian 13; they may do without, as those of
# ZooKeeper 3.9 below.
if [[ -z ${ETCD_35_BIN:-} ]]; then
    ETCD_35_BIN=$servers/etcd-server-3.5/usr/bin/etcd
    [[ -x $ETCD_35_BIN ]] || (fetch etcd-server=3.5 trixie) || ETCD_35_BIN=
fi
# BIND has its libraries beside it, so a folder names it.
if [[ -z ${BIND_ROOT:-} ]]; then
    BIND_ROOT=$servers/bind9
    [[ -x $BIND_ROOT/usr/sbin/named ]] || fetch bind9 bookworm bind9-dnsutils bind9-libs libedit2 \
        libfstrm0 libjemalloc2 liblmdb0 libmaxminddb0 libprotobuf-c1 libuv1
fi
# ZooKeeper, and the real Curator as a client of the other side, are jars.
if [[ -n ${JAVA_BIN:-} ]] || command -v java >/dev/null; then
    JAVA_BIN=$(program JAVA_BIN java - -)
else
    jre=$servers/openjdk-17-jre-headless
    if [[ ! -d $jre ]]; then
        fetch openjdk-17-jre-headless bookworm java-common libjpeg62-turbo liblcms2-2
        # Its configuration is in /etc, which the package may not write here.
        find "$jre/usr/lib/jvm" -lname '/etc/*' | while read -r link; do
            ln -sfn "$jre$(readlink "$link")" "$link"
        done
    fi
    JAVA_BIN=$(echo "$jre"/usr/lib/jvm/java-17-openjdk-*/bin/java)
fi
ZOOKEEPER_ROOT=${ZOOKEEPER_ROOT:-$servers/libzookeeper-java}
[[ -d $ZOOKEEPER_ROOT ]] || fetch libzookeeper-java bookworm libslf4j-java \
    libdropwizard-metrics-java libsnappy-java
CURATOR_ROOT=${CURATOR_ROOT:-$servers/libcurator-discovery-java}
[[ -d $CURATOR_ROOT ]] || fetch libcurator-discovery-java bookworm libcurator-client-java \
    libcurator-framework-java libguava-java libjackson2-core-java libjackson2-databind-java \
    libjackson2-annotations-java
# The tests that name a difference of ZooKeeper 3.9, which is in Debian 13. Many mirrors have no other
# suite than the machine's own, so that they may do without.
if [[ -z ${ZOOKEEPER_39_ROOT:-} ]]; then
    ZOOKEEPER_39_ROOT=$servers/libzookeeper-java-3.9
    [[ -d $ZOOKEEPER_39_ROOT ]] || (fetch libzookeeper-java=3.9 trixie) || ZOOKEEPER_39_ROOT=
fi
export CONSUL_BIN ETCD_BIN PROMETHEUS_BIN ETCD_35_BIN BIND_ROOT JAVA_BIN ZOOKEEPER_ROOT CURATOR_ROOT ZOOKEEPER_39_ROOT
version "$CONSUL_BIN" version
version "$ETCD_BIN" --version
version "$PROMETHEUS_BIN" --version
[[ -z $ETCD_35_BIN ]] || version "$ETCD_35_BIN" --version
version env LD_LIBRARY_PATH="$(echo "$BIND_ROOT"/usr/lib/*-linux-gnu)" "$BIND_ROOT/usr/sbin/named" -v

export ROSTER_REQUIRE_SERVERS=1
# All of them, so that one failure does not hide another.
cargo test --locked --all-features --no-fail-fast "$@"
