//! Compiles the contract (proto/) without protoc: protox is a compiler written in Rust.

use protox::prost_reflect::prost_types::field_descriptor_proto::{Label, Type};

const ROOT: &str = "../../proto/podvm";

fn main() {
    println!("cargo:rerun-if-changed={ROOT}");
    let files =
        protox::compile(["agent/v1/agent.proto", "oci/v1/spec.proto"], [ROOT]).expect("proto/podvm must compile");
    // What becomes config.json: the official names, absent fields left out.
    let optional = r#"#[serde(skip_serializing_if = "Option::is_none")]"#;
    let list = r#"#[serde(skip_serializing_if = "Vec::is_empty")]"#;
    let map = r#"#[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]"#;
    let mut config = tonic_prost_build::configure()
        .build_client(true)
        .build_transport(false)
        .bytes(".agent.v1")
        .btree_map(".")
        .type_attribute(
            ".oci.v1",
            "#[derive(serde::Serialize)] #[serde(rename_all = \"camelCase\")]",
        )
        .field_attribute("IdMapping.container_id", "#[serde(rename = \"containerID\")]")
        .field_attribute("IdMapping.host_id", "#[serde(rename = \"hostID\")]");
    for message in files
        .file
        .iter()
        .filter(|f| f.package() == "oci.v1")
        .flat_map(|f| &f.message_type)
    {
        // Lists whose absence means something else than their emptiness stay, empty: no capabilities are not default ones.
        if message.name() == "Capabilities" {
            continue;
        }
        for field in &message.field {
            let path = format!("{}.{}", message.name(), field.name());
            let is_message = field.r#type() == Type::Message;
            let is_map = message
                .nested_type
                .iter()
                .any(|n| field.type_name().ends_with(&format!(".{}", n.name())));
            config = if is_map {
                config.field_attribute(path, map)
            } else if field.label() == Label::Repeated {
                config.field_attribute(path, list)
            } else if is_message || field.proto3_optional() {
                config.field_attribute(path, optional)
            } else {
                config
            };
        }
    }
    config.compile_fds(files).expect("code generation");
}
