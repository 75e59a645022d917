//! A JVM, and Maven on it, with nothing set up.

use super::place::{Place, has};

const API: &str = "api.example.com";
pub(super) const CENTRAL: &str = concat!("repo.maven", ".apache.org");

/// Asks by both of Java's own clients, and by its loopback without a proxy.
const ASKS: &str = r#"
import java.io.*; import java.net.*; import java.net.http.*;
public class Asks {
  public static void main(String[] words) throws Exception {
    URI uri = new URI(words[0]);
    InputStream old = uri.toURL().openConnection().getInputStream();
    System.out.print(new String(old.readAllBytes()));
    HttpRequest request = HttpRequest.newBuilder(uri).build();
    System.out.print(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());
    for (String own : new String[] {"http://localhost:1/", "http://127.0.0.2:1/", "http://ada:1/"})
      System.out.println(ProxySelector.getDefault().select(new URI(own)));
  }
}
"#;

#[test]
fn a_jvm_asks_its_sidecar_and_trusts_it() {
    if !has("a JVM", "java") {
        return;
    }
    let place = Place::native("java");
    place.internet.put(API, "/x", "it is here\n");
    place.one(&[API], "");
    place
        .run_with(&["exec", "-i", "ada", "--", "sh", "-c", "cat > /tmp/Asks.java"], ASKS.as_bytes())
        .exits(0);
    let said = place.say("ada", &format!("java /tmp/Asks.java https://{API}/x"));
    let direct = "[DIRECT]\n".repeat(3);
    assert_eq!(said, format!("it is here\nit is here\n{}", direct.trim_end()));
    assert!(place.internet.arrived().iter().all(|arrived| arrived.host == API));
    place.nothing_was_refused("ada");
}

/// What a build has of its own proxy settings is none: the JVM's count.
#[test]
fn maven_finds_its_repository() {
    if !has("Maven", "mvn") || !std::path::Path::new("/etc/maven").exists() {
        return;
    }
    let place = Place::native("maven");
    let pom = |more: &str| {
        format!(
            "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>{more}\
             <packaging>pom</packaging></project>"
        )
    };
    let of = "<groupId>org.example</groupId><artifactId>parent</artifactId><version>1</version>";
    place.internet.put(CENTRAL, "/maven2/org/example/parent/1/parent-1.pom", pom(of));
    // Its installation is in two places.
    place.one(&[CENTRAL], "host_paths: [/etc/maven]\n");
    let child = pom(&format!("<parent>{of}<relativePath/></parent><artifactId>child</artifactId>"));
    place
        .run_with(
            &["exec", "-i", "ada", "--", "sh", "-c", "mkdir -p /tmp/it && cat > /tmp/it/pom.xml"],
            child.as_bytes(),
        )
        .exits(0);
    place.say("ada", "cd /tmp/it && mvn -B -q -Dmaven.repo.local=/tmp/m2 validate 2>&1 | grep -v 'Picked up' || true");
    let arrived = place.internet.arrived();
    assert!(arrived.iter().any(|one| one.target.ends_with("/parent-1.pom")), "{arrived:?}");
    let stands = place.say("ada", "ls /tmp/m2/org/example/parent/1/parent-1.pom");
    assert!(stands.ends_with("parent-1.pom"));
}

/// The store is delivered wherever the certificate is.
#[test]
fn the_store_is_in_every_machine_with_a_sidecar() {
    for place in Place::each("jstore") {
        place.one(&[API], "");
        let said = place.say(
            "ada",
            "wc -c </etc/bottle/java/ca.p12; echo \"$JAVA_TOOL_OPTIONS\"; ls -l /etc/bottle/java/ca.p12",
        );
        assert!(said.contains("trustStore=/etc/bottle/java/ca.p12"), "{said}");
        assert!(
            said.contains("-rw-r--r--") && said.contains("root") || said.contains(" 0 "),
            "{said}"
        );
    }
}
