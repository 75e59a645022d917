//! Of a container and its sidecar, what nobody else may reach, and what neither may do: N19, X06, X10.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use super::sidecar::inspect;
use super::*;

fn addresses(id: &str) -> Vec<IpAddr> {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
    inspect(id, format).split_whitespace().map(|text| text.parse().expect("an address")).collect()
}

const ASK: &str = "GET / HTTP/1.1\r\nHost: sidecar\r\nConnection: close\r\n\r\n";

/// Whether a sidecar answers there. That somebody takes the connection says little: on the way out of
/// this machine there may be one who takes all.
fn answers(at: SocketAddr) -> bool {
    let patience = Duration::from_millis(300);
    let Ok(mut stream) = TcpStream::connect_timeout(&at, patience) else { return false };
    let mut said = Vec::new();
    stream.set_read_timeout(Some(patience)).expect("it is ours");
    let _ = stream.write_all(ASK.as_bytes());
    let _ = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).to_ascii_lowercase().contains("bottle")
}

/// N19: the sidecar listens for its own machine, and for nobody else.
#[tokio::test]
async fn a_sidecar_is_reached_by_its_machine_alone() {
    let Some(corner) = Corner::new("listens") else { return };
    let (ada, bob) = (corner.sandbox("ada").await, corner.sandbox("bob").await);
    let uplink = format!("bottle-{}.uplink", corner.scope.owner);
    let ports = [53, 443, 3128, 8081];
    let of_both = [addresses(&ada.sidecar.id.0), addresses(&bob.sidecar.id.0)].concat();
    assert!(of_both.len() >= 4, "one inside and one outside each: {of_both:?}");
    // From the host, whatever it has a route to.
    for address in &of_both {
        for port in ports {
            let at = SocketAddr::new(*address, port);
            assert!(!answers(at), "the host reaches {at}");
        }
    }
    // From a container beside the sidecars, on the network by which they go out, and from the engine's
    // own bridge.
    let label = format!("io.bottle.test={}", support::run_id());
    let ask = ASK.replace("\r\n", "\\r\\n");
    // Whoever is to be reached has longer: the engine's machine may have much else to do. Who has sent
    // all and says so has gone, for a sidecar: so the sender stays until it was answered.
    let ask = format!(
        "ask() {{ {{ printf '{ask}'; sleep 1; }} | nc -w ${{3:-1}} $1 $2 2>/dev/null | grep -qi bottle \
         && echo $1 $2; }};"
    );
    let mut script = format!(
        "(echo bottle | nc -l -p 7000 >/dev/null) & \
         until grep -q :1B58 /proc/net/tcp /proc/net/tcp6; do sleep .1; done; {ask}"
    );
    for address in &of_both {
        for port in ports {
            script += &format!("ask {address} {port};");
        }
    }
    script += "ask 127.0.0.1 7000 60";
    for network in [uplink.as_str(), "bridge"] {
        let name = corner.name(&format!("beside-{}", network.len()));
        let said = docker(&[
            "run",
            "--rm",
            "--name",
            &name,
            "--label",
            &label,
            "--network",
            network,
            BUSYBOX,
            "sh",
            "-c",
            &script,
        ]);
        let said = said.expect("it runs");
        assert_eq!(said.trim(), "127.0.0.1 7000", "a control, and nobody else: from {network}");
    }
    // Its own machine is answered, and nobody's else.
    for (asking, asked) in [(&ada, &ada), (&ada, &bob), (&bob, &ada), (&bob, &bob)] {
        let own = asking.network.id == asked.network.id;
        // Its own is reached at one address of two.
        let wait = if own { 15 } else { 1 };
        let ask = |at: &IpAddr| format!("{ask} ask {at} 3128 {wait}; true");
        let mut reached = 0;
        for at in addresses(&asked.sidecar.id.0) {
            reached += usize::from(!corner.says(&asking.machine, &ask(&at)).await.is_empty());
        }
        assert_eq!(
            reached,
            usize::from(own),
            "{} asks {}",
            asking.machine.name,
            asked.sidecar.name
        );
    }
    // Where it listens, as the kernel has it: at one address, which is its machine's side.
    for made in [&ada, &bob] {
        let pid = inspect(&made.sidecar.id.0, "{{.State.Pid}}");
        let Ok(table) = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")) else {
            support::left_out("where a sidecar listens", "the engine runs on another host");
            continue;
        };
        let listening: Vec<&str> = table
            .lines()
            .filter(|line| line.split_whitespace().nth(3) == Some("0A"))
            .filter_map(|line| line.split_whitespace().nth(1))
            // The engine's own name server, in the container's namespace.
            .filter(|local| !local.starts_with("0B00007F"))
            .collect();
        let own = inspect(
            &made.sidecar.id.0,
            &format!(
                "{{{{(index .NetworkSettings.Networks \"{}\").IPAddress}}}}",
                made.network.name
            ),
        );
        let mut listening: Vec<(String, u16)> = listening
            .into_iter()
            .map(|one| {
                let (address, port) = one.split_once(':').expect("an address and a port");
                let address = u32::from_str_radix(address, 16).expect("an address").swap_bytes();
                let port = u16::from_str_radix(port, 16).expect("a port");
                (std::net::Ipv4Addr::from(address).to_string(), port)
            })
            .collect();
        listening.sort();
        // For what goes out, and for git.
        assert_eq!(listening, [(own.clone(), 3128), (own, 9418)]);
        let six = std::fs::read_to_string(format!("/proc/{pid}/net/tcp6")).unwrap_or_default();
        assert!(!six.lines().any(|line| line.split_whitespace().nth(3) == Some("0A")), "{six}");
    }
}

/// X06, X09: what the engine was told about both containers.
#[tokio::test]
async fn neither_container_has_a_privilege() {
    let Some(corner) = Corner::new("privilege") else { return };
    let made = corner.sandbox("ada").await;
    for part in [&made.machine, &made.sidecar] {
        let id = part.id.0.as_str();
        for (format, value) in [
            ("{{.HostConfig.Privileged}}", "false"),
            ("{{.HostConfig.CapDrop}} {{.HostConfig.CapAdd}}", "[ALL] []"),
            ("{{.HostConfig.SecurityOpt}}", "[no-new-privileges]"),
            ("{{.HostConfig.Devices}} {{.HostConfig.DeviceRequests}}", "[] []"),
            ("{{.HostConfig.DeviceCgroupRules}} {{.HostConfig.GroupAdd}}", "[] []"),
            ("{{.HostConfig.Binds}} {{.Mounts}} {{.HostConfig.VolumesFrom}}", "[] [] []"),
            ("{{.HostConfig.PidMode}}{{.HostConfig.UTSMode}}{{.HostConfig.UsernsMode}}", ""),
            ("{{.HostConfig.IpcMode}} {{.HostConfig.CgroupnsMode}}", "private private"),
            ("{{.HostConfig.CgroupParent}}", ""),
            ("{{.HostConfig.PortBindings}} {{.NetworkSettings.Ports}}", "map[] map[]"),
            ("{{.HostConfig.PublishAllPorts}}", "false"),
            ("{{.HostConfig.OomKillDisable}}", "<nil>"),
            ("{{.HostConfig.Links}}", "[]"),
        ] {
            let found = inspect(id, format).replace("<no value>", "[]");
            let found =
                if format.contains("Oom") { found.replace("false", "<nil>") } else { found };
            assert_eq!(found, value, "{format} of the {:?}", part.resource);
        }
        let shown = inspect(id, "{{.HostConfig.MaskedPaths}} {{.HostConfig.ReadonlyPaths}}");
        for path in ["/proc/kcore", "/proc/keys", "/proc/sysrq-trigger", "/proc/sys"] {
            assert!(shown.contains(path), "{path}: {shown}");
        }
        let limited = inspect(id, "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}");
        assert!(
            limited.split(' ').all(|limit| limit.parse::<u64>().is_ok_and(|n| n > 0)),
            "{limited}"
        );
    }
    let status =
        corner.says(&made.machine, "grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status").await;
    assert_eq!(status.matches("\t0000000000000000").count(), 5, "{status}");
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
}

/// X10: a machine sees its own processes, and through them its own files.
#[tokio::test]
async fn a_machine_sees_no_process_but_its_own() {
    let Some(corner) = Corner::new("processes") else { return };
    let made = corner.sandbox("ada").await;
    let outside: Vec<String> = [&made.sidecar, &made.machine]
        .iter()
        .map(|part| inspect(&part.id.0, "{{.State.Pid}}"))
        .collect();
    for user in [bottle::backend::ExecUser::Sandbox, bottle::backend::ExecUser::Root] {
        let run = async |script: &str| {
            let spec = ExecSpec { user, ..ExecSpec::new(["sh", "-c", script]) };
            let said = corner.backend.exec(&corner.scope, &made.machine, &spec, Bytes::new()).await;
            String::from_utf8_lossy(&said.expect("it runs").stdout).into_owned()
        };
        let words = run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await;
        assert!(!words.contains("serve"), "{words}");
        for pid in &outside {
            for place in ["", "/environ", "/root", "/mem", "/ns/net", "/fd"] {
                let said = run(&format!("ls -d /proc/{pid}{place} 2>/dev/null; true")).await;
                assert_eq!(said, "", "{user:?}: /proc/{pid}{place}");
            }
            assert_eq!(run(&format!("kill -0 {pid} 2>/dev/null && echo alive; true")).await, "");
        }
        // What it does see leads nowhere else.
        let roots =
            run("for pid in /proc/[0-9]*; do ls $pid/root/bottle $pid/root/var/run/docker.sock \
             $pid/root/run/bottle/control 2>/dev/null; done; true")
            .await;
        assert_eq!(roots, "", "{user:?}");
        for script in
            ["nsenter -t 1 -m true", "unshare -U true", "unshare -n true", "chroot / true"]
        {
            let said = run(&format!("{script} 2>/dev/null && echo done; true")).await;
            assert_eq!(said, "", "{user:?}: {script}");
        }
    }
}
